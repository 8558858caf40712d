/* Guest code for tests of the interpreter: position-independent, 64-bit unless it says otherwise; each ends with HLT. */
	.section .rodata
	.altmacro

.macro payload name
	.global payload_\name
payload_\name:
.endm
.macro payload_end name
	.global payload_\name\()_end
payload_\name\()_end:
.endm

/* A mix of what compilers make: rcx times a call, loads and stores at rbx, arithmetic and branches. Result in rax. */
payload mix
	xor	%eax, %eax
1:	mov	%rcx, %rdx
	imul	$17, %rdx, %rdx
	and	$0xff8, %edx
	add	(%rbx,%rdx), %rax
	mov	%rax, 8(%rbx)
	lea	3(%rax,%rcx,4), %rsi
	mov	%rsi, %rdi
	shr	$7, %rdi
	xor	%rdi, %rsi
	test	$1, %sil
	jz	2f
	add	$5, %rax
2:	call	3f
	movzbl	(%rbx,%rdx), %r8d
	cmp	$200, %r8d
	ja	4f
	sub	%r8, %rax
4:	dec	%rcx
	jnz	1b
	hlt
3:	push	%rbp
	mov	%rsp, %rbp
	mov	%rsi, 16(%rbx,%rdx)
	add	%rsi, %rax
	pop	%rbp
	ret
payload_end mix

/* Writes to its own next instruction: mov $1, %eax becomes mov $2, %eax; both runs are seen. eax: sum. */
payload self_modifying
	xor	%esi, %esi
	mov	$2, %ecx
1:	mov	%ecx, %edx
	mov	%dl, 3f+1(%rip)
	jmp	3f
3:	mov	$0x55, %eax
	add	%eax, %esi
	/* The very next instruction. */
	movb	$7, 4f+1(%rip)
4:	mov	$0x55, %eax
	add	%eax, %esi
	dec	%ecx
	jnz	1b
	mov	%esi, %eax
	hlt
payload_end self_modifying

/* Fills rcx bytes at rdi with al, then compares with what was there: rep stosb; repe scasb leaves rcx at 0. */
payload fill
	mov	%rcx, %rdx
	mov	%rdi, %rbx
	rep stosb
	mov	%rdx, %rcx
	mov	%rbx, %rdi
	repe scasb
	hlt
payload_end fill

/* Two processors. The first calls rdi again and again, and stores what it returned at 0(%rbx); rdi returns a constant that the second
 * changes: it writes 1, 2, .. rcx into the instruction at rdi and waits for each to be seen. Then it sets 8(%rbx), and both halt. */
payload call_always
1:	call	*%rdi
	mov	%eax, (%rbx)
	cmpl	$0, 8(%rbx)
	je	1b
	cli
	hlt
payload_end call_always

payload patch_always
	xor	%edx, %edx
1:	inc	%edx
	mov	%edx, 1(%rdi)
2:	pause
	cmp	%edx, (%rbx)
	jne	2b
	cmp	%ecx, %edx
	jne	1b
	movl	$1, 8(%rbx)
	cli
	hlt
payload_end patch_always

/* Real mode: sums the bytes of a string with a segment override, in decimal; 16-bit addressing and stack. */
	.code16
payload real
	xor	%ax, %ax
	mov	$0x300, %bx
	mov	$4, %cx
1:	add	%es:(%bx), %al
	daa
	inc	%bx
	push	%ax
	pop	%dx
	loop	1b
	hlt
payload_end real
	.code64
	.section .note.GNU-stack, "", @progbits
